import numpy as np, json, torch, pandas as pd, glob
from scipy.stats import spearmanr, rankdata
sr=lambda a,b: spearmanr(a,b).statistic
_,LAB=torch.load('dev.pt',weights_only=False)
MOS=LAB.mos.to_numpy(); SUB=LAB.subset.to_numpy()
_,ROWS=torch.load('syn.pt',weights_only=False)
SYN=pd.DataFrame(ROWS,columns=['photo','type','level','fsim'])
def syn(s):
    d=SYN.assign(s=s); clean=d[d.type=='none'].set_index('photo').s
    r={}
    for t,g in d[d.type!='none'].groupby('type'):
        v=[]
        for p,h in g.groupby('photo'):
            sc=np.r_[clean[p],h.s]; lv=np.r_[0,h.level]
            v.append(-sr(sc,lv) if len(set(sc))>1 else 0)
        r[t]=np.mean(v)
    return r, sr(d.s,d.fsim)
f=glob.glob('/work/main/benchmarks/results/biq2021_dev/biq2021_dev-*/grepq-ll-*/zero-shot.csv')[0]
zs=pd.read_csv(f)
def report(name,dev,sy,held=None,heldt=None,worst=0):
    r,p=syn(sy); v=np.array(list(r.values()))
    s=f"{name:34s} dev {sr(dev,MOS):.3f} ("+" ".join(f"{sr(dev[SUB==k],MOS[SUB==k]):.2f}" for k in sorted(set(SUB)))+f") syn med {np.median(v):.3f} min {v.min():+.2f} fsim {p:.3f}"
    if held is not None: s+=" held "+" ".join(f"{sr(held,t):.3f}" for t in heldt)
    print(s,flush=True)
    if worst: print('   worst',sorted((round(x,2),k) for k,x in r.items())[:worst])

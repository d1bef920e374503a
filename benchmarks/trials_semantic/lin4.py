from lin import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy(); S=slice(0,1120)
cl=META.clean.to_numpy(); lf=META.logfr.to_numpy(); fr=META.frrank.to_numpy()
P=pd.read_csv('/work/shared/data/photos.csv').set_index('file')['set'].to_dict(); st=META.photo.map(P).fillna('web').to_numpy()
wall=np.isin(st,['deepin','elementary','solus','popos','ubuntu_mate','mate','kde','budgie'])
m=tr&(K=='clean'); f=ridge(POOL[m][:,S],cl[m],3e4); s0=f(POOL[m][:,S]).std()
md=SRC=='clean'; print(pd.Series(st[md]).value_counts())
base=[f(DEV[:,S])/s0,f(SYNF[:,S])/s0,f(POOL[HELD][:,S])/s0]
report('base',*base,HT)
for nm,y,sel in (('wall vs others',wall,md),('wall vs web',wall,md&(wall|(st=='web'))),('wall vs dreambooth',wall,md&(wall|(st=='dreambooth'))),('sample vs dreambooth',st=='sample_images',md&np.isin(st,['sample_images','dreambooth'])),('sample vs web',st=='sample_images',md&np.isin(st,['sample_images','web']))):
  for pen in (3e3,):
    g=ridge(POOL[sel][:,S],y[sel].astype(float),pen); s1=g(POOL[sel][:,S]).std()
    o=[g(DEV[:,S])/s1,g(SYNF[:,S])/s1,g(POOL[HELD][:,S])/s1]; report(f'{nm} {pen:g}',*o,HT)
    report(f'  +0.4',*[a+.4*b for a,b in zip(base,o)],HT)
# mean base score of clean by set
c=f(POOL[:,S])/s0
print(pd.Series(c[md]).groupby(st[md]).mean())
